"""Laboratory: instruments that only commands and studies use; nothing of the core imports it.

- `audit`: advantage estimators held against exact gradients.
- `benchmark`: the measured properties of a rule, an estimator or a weight, and the board.
- `gradients`: exact policy gradients, best responses and their bias and variance on the Oracle.
- `replay`: one set of episodes under every credit rule.
- `constitution`: constitutional AI and RLAIF as a pipeline.
- `collect`: responses of a policy, written to a file of pairs or lists.
- `publish`: an agent as a folder of the Hugging Face Hub, and back.
"""
