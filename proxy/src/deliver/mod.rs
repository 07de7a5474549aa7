//! Stage 7: what goes back to the caller.
//!
//! *In*: rows of the ledger, contents of the blobs, frames of the backends' WebSockets. *Out*: answers in ComfyUI's shapes with the
//! owner's own names ([`state`]), files by signed URL ([`views`]), events to exactly the sockets that may have them ([`events`]).
//! *Refuses*: whatever is not the owner's, with the answer that a thing has which does not exist. *Answers the attack*: reading another's
//! queue, history, files and previews through ids and names (facts §11, 83-85, 94, 97-100, 109-112). *Leaves to others*: who
//! the caller is (authenticate), where a job runs (dispatch).

pub mod answer;
pub mod cors;
pub mod events;
pub mod login;
pub mod state;
pub mod uploads;
pub mod views;
