//! Health reports.
