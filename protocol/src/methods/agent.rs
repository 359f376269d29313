//! Agent runs over RPC.
