//! Sockets: accept, handshake, then one reader and one writer per client.
