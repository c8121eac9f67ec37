"""Audit of advantage estimators against exact gradients: `check_estimator`, ``tokengym audit``."""

from tokengym.lab.audit.audit import Audit, CheckResult, check_estimator
from tokengym.lab.audit.registered import registered
from tokengym.lab.audit.signatures import ADAPTERS, AuditError

__all__ = ["ADAPTERS", "Audit", "AuditError", "CheckResult", "check_estimator", "registered"]
