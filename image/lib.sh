#!/usr/bin/env bash
# Functions of lock.sh, build.sh and check.sh: download packages with apt and by the lock, and copy their files to the image.
# Sourced by bash -euo pipefail in the root of the checkout.

architectures=(amd64 arm64)
release=bookworm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portforward-operator
# On Debian, some programs are in folders that are not in the PATH of users other than root.
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"
export LC_ALL=C.UTF-8
umask 022
shopt -s inherit_errexit

# The files for the image. The libraries that they need are added to them.
# - the programs that the agent calls (src/dataplane/iptables/variant.rs)
# - all extensions for IPv4, because iptables must also print the rules of other programs
# - etc/protocols: with it iptables-save prints `-p vrrp`, without it `-p 112`. It never prints names of services
# - etc/os-release: scanners read the distribution from it
taken=(
    'usr/sbin/iptables-nft' 'usr/sbin/iptables-nft-save' 'usr/sbin/iptables-nft-restore'
    'usr/sbin/iptables-legacy' 'usr/sbin/iptables-legacy-save' 'usr/sbin/iptables-legacy-restore'
    'usr/lib/*/xtables/libxt_*.so' 'usr/lib/*/xtables/libipt_*.so'
    'etc/protocols' 'etc/os-release'
)

say() { echo "image: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# need COMMAND=PACKAGE...: fails if a command is missing.
need() {
    local command missing=()
    for command in "$@"; do
        command -v "${command%%=*}" >/dev/null || missing+=("${command##*=}")
    done
    ((${#missing[@]} == 0)) || fail "programs of these Debian packages are missing: ${missing[*]}; \
\`make image\` and \`make e2e\` install what they need"
}

# apt_for ARCH FOLDER: configures all later calls of apt-get and apt-cache for that architecture, with their state in FOLDER and
# the sources of this host, or of the file $APT_SOURCES if it is set. The apt of the host does not change and need not know the
# architecture. Only Debian's own packages of the release are used, even if there are other sources.
apt_for() {
    local sources=
    [[ -z ${APT_SOURCES:-} ]] ||
        sources="Dir::Etc::sourcelist \"$(realpath "$APT_SOURCES")\"; Dir::Etc::sourceparts \"/dev/null\";"
    rm -rf "$2"
    mkdir -p "$2"/{lists,cache/archives}/partial
    : >"$2/status"
    cat >"$2/preferences" <<END
Package: *
Pin: release o=Debian, n=/^$release(-updates|-security)?\$/
Pin-Priority: 990

Package: *
Pin: release *
Pin-Priority: -1
END
    cat >"$2/apt.conf" <<END
APT::Architecture "$1";
APT::Architectures { "$1"; };
APT::Sandbox::User "root";
Dir::State "$2";
Dir::State::lists "$2/lists";
Dir::State::status "$2/status";
Dir::Cache "$2/cache";
Dir::Etc::preferences "$2/preferences";
Dir::Etc::preferencesparts "/dev/null";
$sources
END
    export APT_CONFIG=$2/apt.conf
    # A source that cannot be read is not an error here, because it may not be needed. If something is missing later, the error
    # message repeats the output of apt, because it may be the cause.
    apt_said=$(hack/retry.sh apt-get -qq update 2>&1) || apt_said+=$'\n'"apt-get update failed"
    apt_said=${apt_said:+$'\n'"apt could not read all its sources, which may be the cause: $apt_said"}
}

# offered NAME...: prints the available versions, as lines NAME VERSION.
offered() { apt-cache madison "$@" | awk '{ print $1, $3 }' | uniq; }

# lines LOCK ARCH: prints the lines of the lock for that architecture.
lines() { awk -v arch="$2" '!/^#/ && ($3 == arch || $3 == "all")' "$1"; }

# fetch LOCK ARCH FOLDER: puts the packages of the lock into FOLDER/NAME.deb, by their hash, from the cache or with apt.
fetch() {
    local name version arch hash
    rm -rf "$3"
    mkdir -p "$3" "$cache/debian"
    [[ -n $(lines "$1" "$2") ]] || fail "$1 names no package for $2"
    while read -r name version arch hash; do
        [[ $hash =~ ^[0-9a-f]{64}$ ]] || fail "$1: this is not a valid line of a lock: $name $version $arch $hash"
        [[ -f $cache/debian/$hash.deb ]] || echo "$name $version $arch $hash" >>"$3/missing"
    done < <(lines "$1" "$2")
    [[ ! -f $3/missing ]] || fetch_missing "$2" "$3"
    while read -r name version arch hash; do
        check_hash "$cache/debian/$hash.deb" "$name $version $arch" "$hash"
        [[ $(identity "$cache/debian/$hash.deb") == "$name $version $arch" ]] ||
            fail "$1: $hash is $(identity "$cache/debian/$hash.deb"), not $name $version $arch"
        cp "$cache/debian/$hash.deb" "$3/$name.deb"
    done < <(lines "$1" "$2")
}

# fetch_missing ARCH FOLDER: downloads the packages of FOLDER/missing (lines of a lock) into the cache.
fetch_missing() {
    local name version arch hash gone
    say "download $(wc -l <"$2/missing") packages for $1"
    apt_for "$1" "$(realpath "$2")/apt"
    mapfile -t names < <(cut -d ' ' -f 1 "$2/missing")
    offered "${names[@]}" >"$2/offered"
    gone=$(while read -r name version arch hash; do
        grep -qxF "$name $version" "$2/offered" ||
            echo "  $name $version $arch; available: $(sed -n "s/^$name //p" "$2/offered" | paste -sd ' ')"
    done <"$2/missing")
    [[ -z $gone ]] || fail "the sources of apt do not have (or no longer have) these packages:
$gone
Debian replaces packages when it updates them. Renew the lock with \`make image-lock\`, read the difference, and build again. \
No other packages were used instead.$apt_said"
    download "$2/fetched" <"$2/missing"
    while read -r name version arch hash; do
        check_hash "$2/fetched/$name.deb" "$name $version $arch" "$hash"
        keep "$2/fetched/$name.deb" "$hash"
    done <"$2/missing"
}

# download FOLDER: reads lines NAME VERSION and downloads these packages with the apt of apt_for to FOLDER/NAME.deb.
download() {
    local name version rest file wanted=()
    while read -r name version rest; do
        wanted+=("$name=$version")
    done
    mkdir -p "$1/.new"
    (cd "$1/.new" && "$OLDPWD/hack/retry.sh" apt-get -qq download "${wanted[@]}") || fail "apt could not download ${wanted[*]}; try again.$apt_said"
    for file in "$1"/.new/*.deb; do
        mv "$file" "$1/$(dpkg-deb -f "$file" Package).deb"
    done
}

# keep FILE HASH: copies the file to the cache, atomically.
keep() {
    cp "$1" "$cache/debian/.$2.$$"
    mv "$cache/debian/.$2.$$" "$cache/debian/$2.deb"
}

# identity DEB: prints name, version and architecture, as in a lock.
identity() { dpkg-deb --field "$1" Package Version Architecture | sed 's/^[^:]*: //' | paste -sd ' '; }

hash_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# check_hash FILE WHAT HASH
check_hash() {
    [[ $(hash_of "$1") == "$3" ]] || fail "$2 does not match the lock: its SHA-256 is $(hash_of "$1"), the lock has $3 ($1)"
}

# unpack DEBS UNPACKED: unpacks each package into a folder with its name.
unpack() {
    local deb
    rm -rf "$2"
    for deb in "$1"/*.deb; do
        mkdir -p "$2/$(basename "$deb" .deb)"
        dpkg-deb -x "$deb" "$2/$(basename "$deb" .deb)"
    done
}

# take PACKAGE PATH ROOT: copies a file of an unpacked package to ROOT, and the target of a link too. Prints the package's name.
take() {
    local to
    (cd "$1" && cp -a --parents "$2" "$3")
    basename "$1"
    to=$(readlink "$1/$2") || return 0
    [[ $to == /* ]] || to=/$(dirname "$2")/$to
    to=$(realpath -ms --relative-to=/ "$to")
    [[ -e $3/$to ]] || take "$1" "$to" "$3"
}

# needed ROOT: prints the names of the libraries and the loader that the programs and libraries in ROOT need.
needed() {
    find "$1" -type f -print0 | xargs -0 readelf -dlW 2>/dev/null |
        sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p; s/.*program interpreter: .*\/\(.*\)\]$/\1/p' | sort -u
}

# stage UNPACKED ROOT: copies the files for the image to ROOT, with the libraries that they need and no others. Prints the names
# of the packages that were used. ROOT is an absolute path.
stage() {
    local package pattern path name before=-1
    local -A seen=()
    rm -rf "$2"
    mkdir -p "$2"
    for package in "$1"/*; do
        for pattern in "${taken[@]}"; do
            while read -r path; do
                take "$package" "$path" "$2"
            done < <(cd "$package" && compgen -G "$pattern")
        done
    done
    # Libraries may need other libraries: repeat until a pass finds no new one.
    while ((${#seen[@]} > before)); do
        before=${#seen[@]}
        for name in $(needed "$2"); do
            [[ -z ${seen[$name]:-} ]] || continue
            seen[$name]=yes
            path=$(cd "$1" && find . -name "$name" -path '*/lib*')
            [[ -n $path ]] || fail "a program or a library of the image needs $name, and no package has it; renew the lock with \`make image-lock\`"
            while IFS=/ read -r _ package path; do
                take "$1/$package" "$path" "$2"
            done <<<"$path"
        done
    done
}

# root_of LOCK ARCH WORK: creates WORK/rootfs with everything except the agent.
root_of() {
    local work name from locked
    mkdir -p "$3"
    work=$(realpath "$3")
    fetch "$1" "$2" "$work/debs"
    unpack "$work/debs" "$work/unpacked"
    from=$(stage "$work/unpacked" "$work/rootfs" | sort -u)
    locked=$(lines "$1" "$2" | cut -d ' ' -f 1 | sort)
    [[ $from == "$locked" ]] || fail "the image uses other packages than $1 lists; renew the lock with \`make image-lock\`: \
$(diff <(echo "$locked") <(echo "$from") | sed -n 's/^</only in the lock:/p; s/^>/not in the lock:/p' | paste -sd ' ')"
    # The list of packages for scanners, as in images without dpkg, and the licences.
    for name in $from; do
        mkdir -p "$work/rootfs/var/lib/dpkg/status.d" "$work/rootfs/usr/share/doc/$name"
        dpkg-deb -f "$work/debs/$name.deb" | sed '1a Status: install ok installed' >"$work/rootfs/var/lib/dpkg/status.d/$name"
        cp "$work/unpacked/$name/usr/share/doc/$name/copyright" "$work/rootfs/usr/share/doc/$name/"
    done
}

# image_id ARCHIVE: prints the digest of its configuration. This is the id of the image on a node.
image_id() {
    local config
    config=$(tar -xOf "$1" manifest.json | sed 's/.*"Config":"\([^"]*\)".*/\1/')
    echo "sha256:$(tar -xOf "$1" "$config" | sha256sum | cut -d ' ' -f 1)"
}

# machine NAME: converts the name of an architecture: from the name of the kernel or of Rust to Debian's name, or the reverse.
machine() {
    case $1 in
    amd64) echo x86_64 ;;
    arm64) echo aarch64 ;;
    x86_64*) echo amd64 ;;
    aarch64*) echo arm64 ;;
    *) fail "there is no image for $1, only for ${architectures[*]}" ;;
    esac
}

# Prints the commit of the checkout, with -dirty if files differ from it. Prints nothing if this is not a checkout.
commit() {
    local commit
    commit=$(git rev-parse --short=12 HEAD 2>/dev/null) || return 0
    [[ -z $(git status --porcelain 2>/dev/null) ]] || commit+=-dirty
    echo "$commit"
}
