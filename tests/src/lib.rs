//! The harness of the tests that see Comfygate from outside.
