//! Events: what happens to a job, to exactly the sockets that may know.
//!
//! Towards backends there is one socket each, under a secret sid ([`upstream`]); its frames are read by [`codec`] into events of one prompt. Towards
//! clients the gateway ends every WebSocket itself ([`handshake`], [`socket`]); [`hub`] knows which socket belongs to which owner and client, and keeps a
//! bounded queue for each. Events are hints: how a job ended is told from the committed result ([`ending`]), never from a backend's frame. Pictures that a node sends over the WebSocket
//! (`SaveImageWebsocket`) are no events but results: kept, and told with the end. Whoever was away then hears of it at its next connection ([`recent`]).
//!
//! *Answers the attack*: taking over another's clientId, listening to prompts without a client, stalling the one publish loop of ComfyUI by not
//! reading (facts §6, §11 entries 109-115).

pub mod codec;
pub mod end;
pub mod ending;
pub mod handshake;
pub mod held;
pub mod hub;
pub mod recent;
pub mod socket;
pub mod upstream;
