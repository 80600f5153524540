//! Tables over phases, inputs and policies. Worlds with faults are in `lifeboat-sim`.

mod instruction;
mod machine;
mod observation;
mod state;
mod zones;
