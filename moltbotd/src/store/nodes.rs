//! Tables `node_request`, `node_pairing` and `node_name`.
