"""Build the bundled models, or a bundle from your own labelled texts: see `lab/makers`."""

from tokengym.lab.makers.build_models import run

if __name__ == "__main__":
    run()
