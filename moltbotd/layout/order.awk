# Reads the sections of the program's functions (address, size, name; by address), then what valgrind counted,
# the earliest part first; writes a line of the linker script for every function that ran.
#
# Hashes of crates stand in the names; they change with a version or a feature, ours or a library's, and with
# the compiler, so the patterns leave them out.

function hex(digits, value, i) {
    for (i = 1; i <= length(digits); i++)
        value = value * 16 + index("0123456789abcdef", substr(digits, i, 1)) - 1
    return value
}

function pattern(name) {
    # What is promoted from one unit for another gets a suffix.
    sub(/\.llvm\.[0-9]+$/, "*", name)
    if (name ~ /\._R/)
        gsub(/Cs[0-9A-Za-z]+_/, "Cs*_", name)
    return name
}

function section_of(address, low, high, middle) {
    low = 1
    high = sections
    while (low < high) {
        middle = int((low + high + 1) / 2)
        if (start[middle] <= address) low = middle
        else high = middle - 1
    }
    return address < end[low] && address >= start[low] ? low : 0
}

FILENAME == ARGV[1] {
    start[++sections] = hex($1)
    end[sections] = start[sections] + hex($2)
    name[sections] = $3
    next
}

FNR == 1 {
    delete object
    loaded = hex(base)
}

/^c?ob=/ {
    id = $1
    sub(/^c?ob=/, "", id)
    if (NF > 1)
        object[id] = $2
}

/^ob=/ { here = object[id] }

# Within the program, addresses are the file's; where valgrind took code for nobody's, they are those in memory.
/^0x/ && (here == program || here == "???") && !seen[here, $1]++ {
    section = section_of(hex(substr($1, 3)) - (here == program ? 0 : loaded))
    if (section && !(section in ran)) {
        ran[section]
        line = pattern(name[section])
        if (!(line in written)) {
            written[line]
            print "    *(" line ")"
        }
    }
}
