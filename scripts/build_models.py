"""Build a bundle from labelled texts of one's own: see `lab/makers`."""

from tokengym.lab.makers.build_models import run

if __name__ == "__main__":
    run()
