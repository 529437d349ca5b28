//! The stateful Stripe double.
