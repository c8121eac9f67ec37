import subprocess
import sys


def test_importing_the_environments_loads_nothing_heavy():
    code = (
        "import sys, tokengym.envs, tokengym.envs.tasks.task;"
        "print(*{'torch', 'transformers', 'datasets', 'stable_baselines3'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_importing_the_environments_leaves_gymnasium_as_it_is():
    code = (
        "from gymnasium.wrappers.array_conversion import array_conversion;"
        "before = dict(array_conversion.registry);"
        "import gymnasium, tokengym.envs;"
        "from tokengym.envs.episode import Info, Metadata;"
        "from tokengym.envs import Chat, EncodedPrompt, Prompt;"
        "assert dict(array_conversion.registry) == before;"
        "gymnasium.make('tokengym/MovieReview-v0', reward=None);"
        "after = dict(array_conversion.registry);"
        "own = {Chat, Info, Metadata, Prompt, EncodedPrompt};"
        "assert set(after) - set(before) == own;"
        "assert all(after[known] is function for known, function in before.items())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
