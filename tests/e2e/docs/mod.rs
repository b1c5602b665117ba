//! Documents whose commands are run, and whose samples a run writes.

mod guide;
mod page;
mod reference;
mod sample;
mod shell;
mod troubleshooting;
mod upgrade;

pub(crate) use guide::follow_the_guide;
pub(crate) use page::{agrees, block};
pub(crate) use shell::Shell;
