//! Help texts.

use super::backend::Backend;
use crate::sdk::logical::{Answer, Request};

pub(super) fn answer<E>(_backend: &Backend<E>, _request: &Request) -> Answer {
    todo!()
}
