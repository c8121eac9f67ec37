"""Conversations as one episode: partners, and how a reply is appended to the tokens."""

from tokengym.envs.turns import calculator as calculator  # registers its name
