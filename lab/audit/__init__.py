"""Audit of advantage estimators against exact gradients: `check_estimator`, ``tokengym audit``.

The audit is the file `tokengym_audit`, which is a distribution of its own; here it is given this
library's registered estimators.
"""

from tokengym.lab.audit.registered import registered, registered_loss, registered_weights
from tokengym.lab.audit.tokengym_audit import (
    ADAPTERS,
    Audit,
    AuditError,
    check_estimator,
    load_function,
)

__all__ = [
    "ADAPTERS",
    "Audit",
    "AuditError",
    "check_estimator",
    "load_function",
    "registered",
    "registered_loss",
    "registered_weights",
]
