"""NLPO, weighted PPO, online DPO, RAFT and best-of-n as learners by name."""

from dataclasses import replace

from tokengym.agents import LEARNERS, Learner
from tokengym.agents.offline import Candidates
from tokengym.lab.learners.settings import NLPOSettings, OnlineDPORun, RAFTRun

NLPO = replace(
    LEARNERS.find("ppo"),
    name="nlpo",
    summary="PPO that samples among the likeliest tokens of an earlier copy of itself",
    settings=NLPOSettings,
    algorithm="tokengym.lab.learners.nlpo:NLPO",
)
WEIGHTED_PPO = replace(
    LEARNERS.find("ppo"),
    name="weighted-ppo",
    summary="PPO, by the name it had with weights on the advantage of each token",
)
ONLINE_DPO = Learner(
    name="online-dpo",
    summary="DPO on pairs of the policy's own responses, drawn anew in each iteration",
    settings=OnlineDPORun,
    updates="tokengym.lab.learners.iterative:online_dpo_updates",
    steps_setting="iterations",
    step_name="iteration",
    prompts_setting="prompts_per_iteration",
)
RAFT = replace(
    ONLINE_DPO,
    name="raft",
    summary="fine-tuning on the best of the policy's own responses, in iterations",
    settings=RAFTRun,
    updates="tokengym.lab.learners.iterative:raft_updates",
)
BEST_OF_N = Learner(
    name="best-of-n",
    summary="the best of n responses by the scorer; nothing is trained",
    settings=Candidates,
    updates="tokengym.lab.learners.best_of_n:updates",
    steps_setting="n",
    step_name="candidate",
    takes_budget=False,
)
