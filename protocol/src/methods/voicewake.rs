//! Wake words.
