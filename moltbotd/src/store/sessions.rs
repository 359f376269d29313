//! Tables `session`, `transcript`, `run` and `tool_call`.
