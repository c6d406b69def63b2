//! The communicator of a run with one rank: every collective is a local copy.

use std::sync::Arc;
use std::time::Duration;

use super::{CommError, Communicator, Exchanged, check_root, check_slices};
use crate::progress::Pulse;
use crate::world::World;

/// One rank, no peers.
#[derive(Debug, Default)]
pub struct SoloCommunicator;

impl Communicator for SoloCommunicator {
    fn world(&self) -> World {
        World::SOLO
    }

    fn library(&self) -> String {
        "solo (one rank, no messages)".to_owned()
    }

    fn configure(&mut self, _timeout: Duration, _pulse: Arc<Pulse>) {}

    fn barrier(&mut self, _phase: &str) -> Result<(), CommError> {
        Ok(())
    }

    fn all_gather_bytes(&mut self, _phase: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommError> {
        Ok(vec![bytes.to_vec()])
    }

    fn broadcast_bytes(&mut self, phase: &str, root: usize, bytes: &[u8]) -> Result<Vec<u8>, CommError> {
        check_root(phase, World::SOLO, root)?;
        Ok(bytes.to_vec())
    }

    fn all_to_all_slices(
        &mut self,
        phase: &str,
        send: Vec<f32>,
        bounds: &[usize],
        mut recv: Vec<f32>,
    ) -> Result<Exchanged, CommError> {
        check_slices(phase, World::SOLO, bounds, send.len())?;
        recv.clone_from(&send);
        Ok(Exchanged { send, recv })
    }

    fn all_to_all_halves(
        &mut self,
        phase: &str,
        send: Vec<u16>,
        bounds: &[usize],
        mut recv: Vec<u16>,
    ) -> Result<Exchanged<u16>, CommError> {
        check_slices(phase, World::SOLO, bounds, send.len())?;
        recv.clone_from(&send);
        Ok(Exchanged { send, recv })
    }

    fn all_gather_slices(
        &mut self,
        phase: &str,
        bucket: Vec<f32>,
        bounds: &[usize],
    ) -> Result<Vec<f32>, CommError> {
        check_slices(phase, World::SOLO, bounds, bucket.len())?;
        Ok(bucket)
    }

    fn shutdown(&mut self) -> Result<(), CommError> {
        Ok(())
    }

    fn abort(&mut self, _code: i32) {}
}
