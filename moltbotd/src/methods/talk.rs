//! `talk.mode`

use crate::{gateway::Gateway, rpc::Router};

pub(super) fn register(_router: &mut Router<Gateway>) {}
