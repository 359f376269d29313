//! Connected nodes and the calls made to them.
