"""Conversations as one episode: partners, and how a reply is appended to the tokens."""
