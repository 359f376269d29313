//! Tables `channel_pairing` and `channel_allow`.
