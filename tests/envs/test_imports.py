import subprocess
import sys


def test_importing_the_environments_loads_nothing_heavy() -> None:
    code = (
        "import sys, tokengym.envs, tokengym.envs.tasks.task;"
        "print(*{'torch', 'transformers', 'datasets', 'stable_baselines3'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
