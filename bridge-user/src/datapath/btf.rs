//! Where a member lies in one of the kernel's structures, from the kernel's own type information (BTF).
//!
//! The format is that of `include/uapi/linux/btf.h`, in host byte order: a header, one record per type (numbered from 1
//! in order of appearance; 0 is `void`), and a section of strings. A module's BTF is split: its type ids and string
//! offsets continue those of `vmlinux`. Whatever the bytes are, reading them ends, and without a panic.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

#[cfg(test)]
mod tests;

/// Where the kernel shows its BTF: `vmlinux` and one file per loaded module.
const BTF_FOLDER: &str = "/sys/kernel/btf";

const BTF_MAGIC: u16 = 0xeb9f;
const BTF_VERSION: u8 = 1;
/// `struct btf_header` and `struct btf_type` in bytes.
const HEADER: usize = 24;
const TYPE: usize = 12;
/// `struct btf_member` in bytes.
const MEMBER: usize = 12;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_TYPE_TAG: u32 = 18;

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
        let base = Section::parse(base, 1, 0).map_err(|what| malformed(path.display(), what))?;
        let path = folder.join(module);
        let split = match fs::read(&path) {
            Ok(split) => Some(
                Section::parse(split, base.end_id(), base.end_string())
                    .map_err(|what| malformed(path.display(), what))?,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(BtfError::Read { path, source }),
        };
        Ok(Self { base, split })
    }

    /// As the function [`member_offset`].
    pub fn member_offset(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let mut outcome = Err(BtfError::NoStructure(structure.to_owned()));
        // Several types may bear one name: the first in which the path leads somewhere is the one meant.
        for section in self.split.iter().chain([&self.base]) {
            for record in section.records().filter(|record| record.is_composite()) {
                if !self.is_named(record.name, structure) {
                    continue;
                }
                match self.descend(record, structure, path) {
                    Ok(offset) => return Ok(offset),
                    Err(error) if matches!(outcome, Err(BtfError::NoStructure(_))) => outcome = Err(error),
                    Err(_) => {}
                }
            }
        }
        outcome
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
        u32::try_from(bits / 8).map_err(|_too_large| malformed(passed, "an offset is too large"))
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
            match record.kind() {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => id = record.size_or_type,
                _ => return Ok(Some(record)),
            }
        }
        Err("a chain of typedefs has no end")
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let section = self.split.as_ref().filter(|split| name >= split.first_string).unwrap_or(&self.base);
        let rest = section.strings(name).and_then(|rest| rest.strip_prefix(wanted.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn malformed(object: impl ToString, what: &'static str) -> BtfError {
    BtfError::Malformed { object: object.to_string(), what }
}

/// A member as `struct btf_member` describes it.
#[derive(Clone, Copy)]
struct Member {
    type_id: u32,
    /// Offset in bits.
    bits: u64,
    is_bit_field: bool,
}

/// One type: `struct btf_type` and the data behind it.
#[derive(Clone, Copy)]
struct Record<'a> {
    name: u32,
    info: u32,
    size_or_type: u32,
    extra: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the type at the start of `bytes`; the error says what is wrong with it.
    fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let word = |offset| u32_at(bytes, offset).ok_or("a type is cut off");
        let mut record = Self { name: word(0)?, info: word(4)?, size_or_type: word(8)?, extra: &[] };
        let length = record.extra_len().ok_or("a kind of type is unknown")?;
        record.extra = bytes.get(TYPE..TYPE + length).ok_or("a type is cut off")?;
        Ok(record)
    }

    fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn is_composite(&self) -> bool {
        matches!(self.kind(), KIND_STRUCT | KIND_UNION)
    }

    /// The length in bytes of what follows `struct btf_type`; `None` if the kind is unknown.
    fn extra_len(&self) -> Option<usize> {
        let count = usize::from(self.info.to_le_bytes()[0]) | usize::from(self.info.to_le_bytes()[1]) << 8;
        Some(match self.kind() {
            // Pointer, forward declaration, typedef and qualifiers, function, float, type tag.
            2 | 7 | KIND_TYPEDEF..=12 | 16 | KIND_TYPE_TAG => 0,
            // Integer, variable, declaration tag.
            1 | 14 | 17 => 4,
            // Array.
            3 => 12,
            KIND_STRUCT | KIND_UNION => count * MEMBER,
            // Enumeration, function prototype.
            6 | 13 => count * 8,
            // Data section, 64-bit enumeration.
            15 | 19 => count * 12,
            _ => return None,
        })
    }

    /// The members of a structure or union, each after its name's offset.
    fn members(self) -> impl Iterator<Item = (u32, Member)> {
        // BTF_INFO_KFLAG: the offset's highest byte is the width of a bit field.
        let flagged = self.info >> 31 == 1;
        let (members, _) = self.extra.as_chunks::<MEMBER>();
        members.iter().filter_map(move |raw| {
            let (name, type_id, offset) = (u32_at(raw, 0)?, u32_at(raw, 4)?, u32_at(raw, 8)?);
            let (width, bits) = if flagged { (offset >> 24, offset & 0xff_ffff) } else { (0, offset) };
            Some((name, Member { type_id, bits: u64::from(bits), is_bit_field: width != 0 }))
        })
    }
}

/// One file of BTF.
struct Section {
    data: Vec<u8>,
    /// Where in `data` each type begins, in order of the ids.
    starts: Vec<usize>,
    /// The id of the first type.
    first_id: u32,
    /// Where in `data` the strings begin and end.
    strings: (usize, usize),
    /// The offset of the first string.
    first_string: u32,
}

impl Section {
    fn parse(data: Vec<u8>, first_id: u32, first_string: u32) -> Result<Self, &'static str> {
        let word = |offset| u32_at(&data, offset).map(to_usize).ok_or("the header is cut off");
        if data.first_chunk() != Some(&BTF_MAGIC.to_ne_bytes()) {
            return Err("it does not begin with the magic number");
        }
        if data.get(2) != Some(&BTF_VERSION) {
            return Err("its version is unknown");
        }
        let header = word(4)?;
        if header < HEADER {
            return Err("the header is too short");
        }
        // Both sections are counted from the end of the header.
        let part = |offset: usize, length: usize| {
            let start = header.checked_add(offset)?;
            let end = start.checked_add(length)?;
            (end <= data.len()).then_some((start, end))
        };
        let types = part(word(8)?, word(12)?).ok_or("the types are cut off")?;
        let strings = part(word(16)?, word(20)?).ok_or("the strings are cut off")?;
        u32::try_from(strings.1 - strings.0)
            .ok()
            .and_then(|length| length.checked_add(first_string))
            .ok_or("too many strings")?;
        // A type takes about thirty bytes on average.
        let mut starts = Vec::with_capacity((types.1 - types.0) / 24);
        let mut at = types.0;
        while at < types.1 {
            starts.push(at);
            let record = Record::parse(data.get(at..types.1).unwrap_or_default())?;
            at += TYPE + record.extra.len();
        }
        u32::try_from(starts.len()).ok().and_then(|count| count.checked_add(first_id)).ok_or("too many types")?;
        Ok(Self { data, starts, first_id, strings, first_string })
    }

    /// The id that follows the last type's.
    fn end_id(&self) -> u32 {
        self.first_id + u32::try_from(self.starts.len()).unwrap_or_default()
    }

    /// The offset that follows the last string.
    fn end_string(&self) -> u32 {
        self.first_string + u32::try_from(self.strings.1 - self.strings.0).unwrap_or_default()
    }

    fn at(&self, start: usize) -> Option<Record<'_>> {
        Record::parse(self.data.get(start..)?).ok()
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.starts.iter().filter_map(|start| self.at(*start))
    }

    fn record(&self, id: u32) -> Option<Record<'_>> {
        self.at(*self.starts.get(to_usize(id.checked_sub(self.first_id)?))?)
    }

    /// The strings from an offset on.
    fn strings(&self, offset: u32) -> Option<&[u8]> {
        let start = self.strings.0.checked_add(to_usize(offset.checked_sub(self.first_string)?))?;
        self.data.get(start..self.strings.1)
    }
}

/// Saturates where addresses have fewer than 32 bits: such an offset is beyond any data there.
fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A number in host byte order.
fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|raw| u32::from_ne_bytes(*raw))
}
