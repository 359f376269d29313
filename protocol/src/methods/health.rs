//! Health and status reports.
