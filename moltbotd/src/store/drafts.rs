//! Table `draft`.
