"""Expected policy gradients of credit rules and advantage estimators, on a task small enough."""
