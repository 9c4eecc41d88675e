//! What the running kernel has, read without making it load anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    sync::OnceLock,
};

/// The parts that can be built in, with a function of theirs that `/proc/kallsyms` names.
const BUILT_IN: [(&str, &str); 4] = [
    ("nf_tables", "nft_do_chain"),
    ("ebtable_filter", "frame_filter_table_init"),
    ("ebtable_nat", "frame_nat_table_init"),
    ("ebtable_broute", "broute_table_init"),
];

/// Those of [`BUILT_IN`] that are, once read: that never changes, and the kernel's symbols are many.
static FOUND: OnceLock<Option<BTreeSet<&'static str>>> = OnceLock::new();

/// Kernel modules, loaded and built in.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    /// `/proc/modules`, each with its use count; `None` where the kernel cannot load modules, so that asking cannot make it
    /// load one.
    loaded: Option<BTreeMap<String, u32>>,
    /// Those of [`BUILT_IN`] that are; `None` where the kernel does not list its symbols.
    built_in: Option<&'static BTreeSet<&'static str>>,
}

impl Kernel {
    /// Reads both lists. Takes a few tens of milliseconds the first time.
    pub(super) fn read() -> io::Result<Self> {
        let built_in = if let Some(found) = FOUND.get() {
            found
        } else {
            let found = read_built_in()?;
            FOUND.get_or_init(|| found)
        };
        let mut kernel = Self { loaded: None, built_in: built_in.as_ref() };
        kernel.refresh()?;
        Ok(kernel)
    }

    /// Reads again what can change: the loaded modules.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        self.loaded = match fs::read_to_string("/proc/modules") {
            Ok(list) => Some(list.lines().filter_map(module).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// A module is loaded.
    pub(super) fn loaded(&self, module: &str) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| loaded.contains_key(module))
    }

    /// A module is loaded, and something holds it.
    pub(super) fn used(&self, module: &str) -> bool {
        self.loaded.as_ref().and_then(|loaded| loaded.get(module)).is_some_and(|uses| *uses > 0)
    }

    /// One of [`BUILT_IN`] is there, in either form. What cannot be told counts as there.
    pub(super) fn has(&self, part: &str) -> bool {
        self.loaded(part) || self.built_in.as_ref().is_none_or(|built_in| built_in.contains(part))
    }

    /// `nf_tables` can be asked: it is there, or the kernel has no module that asking would load.
    pub(super) fn has_nftables(&self) -> bool {
        self.has("nf_tables")
    }
}

/// Name and use count out of a line of `/proc/modules`. A module that cannot be unloaded has no count: it counts as used.
fn module(line: &str) -> Option<(String, u32)> {
    let mut columns = line.split(' ');
    let name = columns.next()?.to_owned();
    Some((name, columns.nth(1).and_then(|uses| uses.parse().ok()).unwrap_or(1)))
}

fn read_built_in() -> io::Result<Option<BTreeSet<&'static str>>> {
    match fs::File::open("/proc/kallsyms") {
        Ok(file) => built_in(io::BufReader::with_capacity(64 << 10, file)).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Finds the parts whose function is in the kernel itself: symbols of modules have a fourth column.
fn built_in(mut symbols: impl io::BufRead) -> io::Result<BTreeSet<&'static str>> {
    let mut found = BTreeSet::new();
    let mut line = Vec::new();
    while symbols.read_until(b'\n', &mut line)? != 0 {
        let name = line.trim_ascii_end();
        let found_here = BUILT_IN
            .iter()
            .find(|(_, symbol)| name.strip_suffix(symbol.as_bytes()).is_some_and(|before| before.ends_with(b" ")));
        found.extend(found_here.map(|(part, _)| *part));
        line.clear();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_symbols_of_the_kernel_itself_count_as_built_in() {
        let list = b"ffffffff81f653d0 T nft_do_chain\n\
            ffffffffc0a01000 t frame_filter_table_init\t[ebtable_filter]\n\
            ffffffff81f653d0 t broute_table_init_again\n\nx\n";
        assert_eq!(built_in(&list[..]).unwrap(), BTreeSet::from(["nf_tables"]));
    }

    #[test]
    fn a_line_of_modules_has_a_name_and_a_use_count() {
        let line = "nf_conntrack_bridge 20480 2 nft_ct, Live 0x0000000000000000";
        assert_eq!(module(line), Some(("nf_conntrack_bridge".to_owned(), 2)));
        assert_eq!(module("x 4096 - - Live 0x0"), Some(("x".to_owned(), 1)));
    }

    #[test]
    fn what_cannot_be_told_counts_as_there() {
        static NONE: BTreeSet<&str> = BTreeSet::new();
        let kernel = Kernel::default();
        assert!(kernel.has("ebtable_filter") && !kernel.loaded("ebtable_filter"));
        let kernel = Kernel { loaded: Some([("nf_tables".to_owned(), 0)].into()), built_in: Some(&NONE) };
        assert!(kernel.has_nftables() && !kernel.has("ebtable_nat"));
    }
}
