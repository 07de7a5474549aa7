//! Events: from one upstream socket per backend to exactly the client sockets that may have them.
//!
//! Pure rules: [`codec`] reads an upstream frame and writes a client's, [`ending`] tells a committed result, [`hub`] says whose queue a frame goes
//! into, [`handshake`] decides on an upgrade. Sockets: [`upstream`] (ours at a backend) and [`socket`] (a client's, sans-IO over a small trait).
//! Events are hints: nothing is decided by them, and a client that missed some reads `/history`, as with ComfyUI.

pub mod codec;
pub mod ending;
pub mod handshake;
pub mod hub;
pub mod socket;
pub mod upstream;
