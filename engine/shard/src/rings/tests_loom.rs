//! Models of the wake rule.
