//! The two socket options by which the kernel gives out a table of legacy xtables
//! (`include/uapi/linux/netfilter_ipv4/ip_tables.h`). They need `CAP_NET_ADMIN`.

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`: `IPT_BASE_CTL` and the next number.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// `XT_TABLE_MAXNAMELEN`, with the final zero.
const NAME: usize = 32;
/// The number of hooks, `NF_INET_NUMHOOKS`.
const HOOKS: usize = 5;
/// The size of `struct ipt_getinfo`: a name and 13 numbers of 4 bytes.
const INFO: usize = NAME + 4 * (1 + HOOKS + HOOKS + 2);
/// The size of the head of `struct ipt_get_entries`: a name and a number, before entries with counters of 8 bytes.
const HEAD: usize = (NAME + 4).next_multiple_of(align_of::<u64>());

/// `struct ipt_getinfo`: the number of entries of a table, the size, and where the built-in chains begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info([u8; INFO]);

impl Info {
    fn number(&self, index: usize) -> u32 {
        let from = NAME + 4 * index;
        self.0[from..].first_chunk().copied().map_or(0, u32::from_ne_bytes)
    }

    /// Where the built-in chain of each hook begins, if the table has one, by the number of the hook (`enum nf_inet_hooks`).
    pub(super) fn begins(&self) -> impl Iterator<Item = (usize, usize)> {
        let has = |hook: &usize| self.number(0) & (1 << hook) != 0;
        (0..HOOKS).filter(has).filter_map(|hook| Some((hook, usize::try_from(self.number(1 + hook)).ok()?)))
    }

    fn size(&self) -> usize {
        usize::try_from(self.number(2 + 2 * HOOKS)).unwrap_or_default()
    }
}

/// What the kernel says about a table. If its module is not loaded, the kernel may load it.
pub(super) fn info(table: &str) -> io::Result<Info> {
    let mut buffer = [0; INFO];
    name(&mut buffer, table)?;
    ask(GET_INFO, &mut buffer)?;
    Ok(Info(buffer))
}

/// The entries of the table of `info`. Fails with `EAGAIN` if the table has another size by now.
pub(super) fn entries(info: &Info) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; HEAD + info.size()];
    buffer[..NAME].copy_from_slice(&info.0[..NAME]);
    let size = u32::try_from(info.size()).map_err(io::Error::other)?;
    buffer[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    ask(GET_ENTRIES, &mut buffer)?;
    buffer.drain(..HEAD);
    Ok(buffer)
}

fn name(buffer: &mut [u8], table: &str) -> io::Result<()> {
    let place = buffer.get_mut(..table.len()).filter(|place| place.len() < NAME);
    place.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?.copy_from_slice(table.as_bytes());
    Ok(())
}

/// Asks in the network namespace of this thread.
#[allow(unsafe_code, reason = "neither std, rustix nor nix has these options")]
fn ask(option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
    // The kernel answers on every socket of IPv4. This one is not bound and takes no port.
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `buffer`, which is as long and stays borrowed for the call.
    let asked =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, option, buffer.as_mut_ptr().cast(), &raw mut length) };
    if asked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
