"""Several processes that train one agent, reached by name from `tokengym.agents.processes`."""
