//! Tables `device`, `device_token` and `device_request`.
