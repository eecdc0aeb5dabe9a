//! What this kernel offers, in words an operator can use.

use std::io;

use io_uring::{IoUring, opcode};

/// The kernel's answer.
#[derive(Debug)]
pub struct Probe {
    /// Whether the driver can run here, or why not.
    pub available: Result<(), io::Error>,
    /// The kernel's release.
    pub release: String,
    /// Operations and flags that the driver uses and the kernel has.
    pub features: Vec<&'static str>,
    /// Those it uses and the kernel lacks.
    pub missing: Vec<&'static str>,
}

/// Tries what the driver needs.
pub fn probe() -> Probe {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let (mut features, mut missing) = (Vec::new(), Vec::new());
    let available = try_ring(&mut features, &mut missing);
    Probe { available, release, features, missing }
}

fn try_ring(features: &mut Vec<&'static str>, missing: &mut Vec<&'static str>) -> Result<(), io::Error> {
    let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_submit_all().build(8);
    let ring: IoUring = match ring {
        Ok(ring) => ring,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            missing.push("SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1)");
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    features.push("SINGLE_ISSUER, DEFER_TASKRUN");
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    for (code, name) in [
        (opcode::Accept::CODE, "accept"),
        (opcode::RecvMulti::CODE, "multishot recv"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::MsgRingData::CODE, "msg_ring"),
        (opcode::Shutdown::CODE, "shutdown"),
    ] {
        if probe.is_supported(code) { features.push(name) } else { missing.push(name) }
    }
    ring.submitter().register_files_sparse(1)?;
    features.push("direct descriptors");
    if ring.params().is_feature_nodrop() && ring.params().is_feature_ext_arg() {
        features.push("no dropped completions");
    } else {
        missing.push("no dropped completions");
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}
