//! Webhooks over real sockets.
