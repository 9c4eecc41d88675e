//! Where a member lies in one of the kernel's structures, from the kernel's own type information (BTF).
//!
//! The format is that of `include/uapi/linux/btf.h`, in host byte order: a header, one record per type (numbered from 1
//! in order of appearance; 0 is `void`), and a section of strings. A module's BTF is split: its type ids and string
//! offsets continue those of `vmlinux`. Whatever the bytes are, reading them ends, and without a panic.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests;

use self::format::{KIND_FUNCTION, Member, Record, Section};

/// Where the kernel shows its BTF: `vmlinux` and one file per loaded module.
const BTF_FOLDER: &str = "/sys/kernel/btf";

/// Typedefs and qualifiers in a row, at most (`MAX_RESOLVE_DEPTH` of the kernel).
const RESOLVE_DEPTH: usize = 32;
/// Members looked at in one search, at most: anonymous structures that contain each other would never end otherwise.
const SEARCH_BUDGET: u32 = 1 << 20;

/// Why an offset cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("cannot read {}: {source} (xbr needs a kernel with CONFIG_DEBUG_INFO_BTF)", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The answer of the system.
        source: io::Error,
    },
    /// The data is not BTF as this reader knows it.
    #[error("{object}: malformed BTF: {what}")]
    Malformed {
        /// The file or structure.
        object: String,
        /// What is wrong.
        what: &'static str,
    },
    /// No such structure or union is described.
    #[error("the kernel's BTF has no structure {0}")]
    NoStructure(String),
    /// No such function is described.
    #[error("the kernel's BTF has no function {0}")]
    NoFunction(String),
    /// No such constant is described.
    #[error("the kernel's BTF has no constant {0}")]
    NoConstant(String),
    /// The structure has no such member.
    #[error("the kernel's BTF has no member {member} in {structure}")]
    NoMember {
        /// The structure and the members gone through.
        structure: String,
        /// The member asked for.
        member: String,
    },
    /// The member is neither a structure nor a union, so that it has no members of its own.
    #[error("{0} has no members in the kernel's BTF")]
    NotAStructure(String),
    /// The member is a bit field, which has no address.
    #[error("{0} is a bit field in the kernel's BTF")]
    BitField(String),
}

/// The offset in bytes of a member of `structure` (a struct or union), found by the names in `path`: a member, then a
/// member of that one, and so on. Members of anonymous structures and unions belong to what contains them. The structure
/// is looked for in the BTF of `module`, if that is a loaded module, and then in that of the kernel.
///
/// Reads the files anew at each call; who wants several offsets loads a [`Btf`] once.
///
/// # Errors
/// See [`BtfError`]; each is one line that names the structure or file.
pub fn member_offset(structure: &str, path: &[&str], module: &str) -> Result<u32, BtfError> {
    Btf::load(module)?.member_offset(structure, path)
}

/// The BTF of the running kernel, and of one module.
pub struct Btf {
    base: Section,
    split: Option<Section>,
}

impl Btf {
    /// Reads the kernel's BTF, and that of `module` if the kernel shows one (it does not for what is built in).
    pub fn load(module: &str) -> Result<Self, BtfError> {
        Self::load_from(Path::new(BTF_FOLDER), module)
    }

    fn load_from(folder: &Path, module: &str) -> Result<Self, BtfError> {
        let path = folder.join("vmlinux");
        let base = fs::read(&path).map_err(|source| BtfError::Read { path: path.clone(), source })?;
        let base = Section::parse(base, 1, 0).map_err(|what| malformed(&path.to_string_lossy(), what))?;
        let path = folder.join(module);
        let split = match fs::read(&path) {
            Ok(split) => Some(
                Section::parse(split, base.end_id(), base.end_string())
                    .map_err(|what| malformed(&path.to_string_lossy(), what))?,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(BtfError::Read { path, source }),
        };
        Ok(Self { base, split })
    }

    /// Whether the types of this module are among them, or it is not loaded now, as one that is built in never is.
    pub fn is_complete(&self, module: &str) -> bool {
        self.split.is_some() || !Path::new(BTF_FOLDER).join(module).exists()
    }

    /// As the function [`member_offset`].
    pub fn member_offset(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let mut outcome = Err(BtfError::NoStructure(structure.to_owned()));
        // Several types may bear one name: the first in which the path leads somewhere is the one meant.
        for record in self.composites() {
            if self.is_named(record.name, structure) {
                match self.descend(record, structure, path) {
                    Ok(offset) => return Ok(offset),
                    Err(error) if matches!(outcome, Err(BtfError::NoStructure(_))) => outcome = Err(error),
                    Err(_) => {}
                }
            }
        }
        outcome
    }

    /// The size in bytes of a struct or union.
    pub fn size(&self, structure: &str) -> Result<u32, BtfError> {
        let record = self.composites().find(|record| self.is_named(record.name, structure));
        record.and_then(|record| record.size()).ok_or_else(|| BtfError::NoStructure(structure.to_owned()))
    }

    /// The type id of a function of the kernel itself.
    pub fn function(&self, name: &str) -> Result<u32, BtfError> {
        let is_it = |record: Record<'_>| record.kind() == KIND_FUNCTION && self.is_named(record.name, name);
        let place = self.base.records().position(is_it).and_then(|place| u32::try_from(place).ok());
        place.map(|place| self.base.first_id + place).ok_or_else(|| BtfError::NoFunction(name.to_owned()))
    }

    /// All constants of the enumeration that `constant` belongs to, by their names.
    pub fn enumeration(&self, constant: &str) -> Result<BTreeMap<String, u32>, BtfError> {
        let has_it = |record: &Record<'_>| record.enumerators().any(|(name, _)| self.is_named(name, constant));
        let record = self.records().find(has_it);
        let record = record.ok_or_else(|| BtfError::NoConstant(constant.to_owned()))?;
        Ok(record.enumerators().filter_map(|(name, value)| Some((self.text(name)?, value))).collect())
    }

    /// Follows `path` from one type.
    fn descend(&self, start: Record<'_>, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let mut at = start;
        let mut bits = 0_u64;
        let mut passed = structure.to_owned();
        for (index, name) in path.iter().enumerate() {
            let mut budget = SEARCH_BUDGET;
            let member = self
                .find(at, name, RESOLVE_DEPTH, &mut budget)
                .map_err(|what| malformed(&passed, what))?
                .ok_or_else(|| BtfError::NoMember { structure: passed.clone(), member: (*name).to_owned() })?;
            bits = bits.checked_add(member.bits).ok_or_else(|| malformed(&passed, "an offset is too large"))?;
            passed = format!("{passed}.{name}");
            if member.is_bit_field {
                return Err(BtfError::BitField(passed));
            }
            if index + 1 < path.len() {
                at = self
                    .resolve(member.type_id)
                    .map_err(|what| malformed(&passed, what))?
                    .filter(Record::is_composite)
                    .ok_or_else(|| BtfError::NotAStructure(passed.clone()))?;
            }
        }
        if !bits.is_multiple_of(8) {
            return Err(BtfError::BitField(passed));
        }
        u32::try_from(bits / 8).map_err(|_too_large| malformed(&passed, "an offset is too large"))
    }

    /// Looks for a member by name, in anonymous members too. Its offset counts from the start of `record`.
    fn find(
        &self,
        record: Record<'_>,
        name: &str,
        depth: usize,
        budget: &mut u32,
    ) -> Result<Option<Member>, &'static str> {
        for (member_name, member) in record.members() {
            *budget = budget.checked_sub(1).ok_or("its members have no end")?;
            if member_name != 0 && self.is_named(member_name, name) {
                return Ok(Some(member));
            }
            if member_name == 0
                && let Some(inner) = self.resolve(member.type_id)?.filter(Record::is_composite)
            {
                let depth = depth.checked_sub(1).ok_or("its anonymous members nest too deeply")?;
                if let Some(found) = self.find(inner, name, depth, budget)? {
                    let bits = found.bits.checked_add(member.bits).ok_or("an offset is too large")?;
                    return Ok(Some(Member { bits, ..found }));
                }
            }
        }
        Ok(None)
    }

    /// The type behind typedefs and qualifiers; `None` for `void`.
    fn resolve(&self, mut id: u32) -> Result<Option<Record<'_>>, &'static str> {
        for _ in 0..=RESOLVE_DEPTH {
            if id == 0 {
                return Ok(None);
            }
            let section = self.split.as_ref().filter(|split| id >= split.first_id).unwrap_or(&self.base);
            let record = section.record(id).ok_or("a type id points nowhere")?;
            match record.alias_of() {
                Some(target) => id = target,
                None => return Ok(Some(record)),
            }
        }
        Err("a chain of typedefs has no end")
    }

    /// All types, the module's before those of the kernel itself.
    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.split.iter().chain([&self.base]).flat_map(Section::records)
    }

    /// The structures and unions among them.
    fn composites(&self) -> impl Iterator<Item = Record<'_>> {
        self.split.iter().chain([&self.base]).flat_map(Section::composites)
    }

    /// The strings from this one on.
    fn strings(&self, at: u32) -> Option<&[u8]> {
        let section = self.split.as_ref().filter(|split| at >= split.first_string).unwrap_or(&self.base);
        section.strings(at)
    }

    /// A string.
    fn text(&self, at: u32) -> Option<String> {
        let rest = self.strings(at)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let rest = self.strings(name).and_then(|rest| rest.strip_prefix(wanted.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn malformed(object: &str, what: &'static str) -> BtfError {
    BtfError::Malformed { object: object.to_owned(), what }
}
