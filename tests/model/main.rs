//! The model of the protocol: a simulated store and simulated clients around the real capture.
