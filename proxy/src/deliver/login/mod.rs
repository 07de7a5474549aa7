//! The login of browsers: two pages of our own and where they lead. Pure: texts in, answers out; who is let in is decided by the authenticate stage.

pub mod next;
pub mod page;
