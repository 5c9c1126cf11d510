package users

import (
	"encoding/binary"
	_ "unsafe" // for go:linkname

	"github.com/alexedwards/argon2id"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/blake2b"
)

// block is a block of argon2's memory.
type block [128]uint64

// compress and compressXOR are functions of the library, which has them in assembler: out
// becomes the compression of two blocks (RFC 9106 §3.5), or that XORed with what out was.
// The build fails if the library renames them.
//
//go:linkname compress golang.org/x/crypto/argon2.processBlock
//go:noescape
func compress(out, x, y *block)

//go:linkname compressXOR golang.org/x/crypto/argon2.processBlockXOR
//go:noescape
func compressXOR(out, x, y *block)

const (
	segments = 4 // of a lane (RFC 9106 §3.4)
	typeID   = 2 // of argon2id
)

// hasher computes hashes, one after another in the same memory. argon2.IDKey takes new
// memory for each hash: to clear 19 MiB, to read them when they are in no cache, and to
// collect them is a tenth of a login.
type hasher struct {
	memory []block
}

// argon2id returns the key of a password (RFC 9106 §3.2). Lanes are computed one after
// another.
func (h *hasher) argon2id(password, salt []byte, p *argon2id.Params) []byte {
	lanes := int(p.Parallelism)
	f := filling{hasher: h, passes: int(p.Iterations), lanes: lanes, segment: int(p.Memory) / (segments * lanes)}
	f.columns = segments * f.segment
	if n := lanes * f.columns; cap(h.memory) < n {
		h.memory = make([]block, n)
	} else {
		h.memory = h.memory[:n]
	}

	first := firstHash(password, salt, p)
	for lane := range lanes {
		for column := range 2 {
			text := binary.LittleEndian.AppendUint32(first, uint32(column))
			h.memory[lane*f.columns+column] = fromBytes(longHash(1024, binary.LittleEndian.AppendUint32(text, uint32(lane))))
		}
	}
	for pass := range f.passes {
		for slice := range segments {
			for lane := range lanes {
				f.fill(pass, slice, lane)
			}
		}
	}
	var last block
	for lane := range lanes {
		for i, word := range h.memory[(lane+1)*f.columns-1] {
			last[i] ^= word
		}
	}
	text := make([]byte, 0, 1024)
	for _, word := range last {
		text = binary.LittleEndian.AppendUint64(text, word)
	}
	return longHash(int(p.KeyLength), text)
}

// filling are the numbers of one hash.
type filling struct {
	*hasher
	passes  int
	lanes   int // rows of the memory
	columns int // blocks of a lane
	segment int // blocks of a lane in a slice
}

// fill computes one segment of the memory (RFC 9106 §3.2, steps 5 and 6).
func (f *filling) fill(pass, slice, lane int) {
	// Until half of the first pass, the places of the blocks that are read do not depend
	// on the password.
	independent := pass == 0 && slice < segments/2
	input := block{uint64(pass), uint64(lane), uint64(slice), uint64(len(f.memory)), uint64(f.passes), typeID}
	var places, zero block

	row := f.memory[lane*f.columns:][:f.columns]
	for i := range f.segment {
		if independent && i%len(places) == 0 {
			input[6]++
			compress(&places, &zero, &input)
			compress(&places, &zero, &places)
		}
		if pass == 0 && slice == 0 && i < 2 {
			continue
		}
		column := slice*f.segment + i
		previous := &row[(column+f.columns-1)%f.columns]
		random := previous[0]
		if independent {
			random = places[i%len(places)]
		}
		other := &f.memory[f.place(random, pass, slice, lane, i)]
		if pass == 0 {
			compress(&row[column], previous, other)
		} else {
			compressXOR(&row[column], previous, other)
		}
	}
}

// place returns the block that is read for block i of a segment (RFC 9106 §3.4.2).
func (f *filling) place(random uint64, pass, slice, lane, i int) int {
	from := int(random >> 32 % uint64(f.lanes))
	size, start := (segments-1)*f.segment, (slice+1)%segments*f.segment
	if pass == 0 {
		size, start = slice*f.segment, 0
		if slice == 0 {
			from = lane
		}
	}
	if from == lane {
		size += i - 1
	} else if i == 0 {
		size--
	}
	x := random & 0xffffffff
	x = x * x >> 32
	return from*f.columns + (start+size-1-int(uint64(size)*x>>32))%f.columns
}

// firstHash is H0 of RFC 9106 §3.2.
func firstHash(password, salt []byte, p *argon2id.Params) []byte {
	var text []byte
	for _, n := range []uint32{uint32(p.Parallelism), p.KeyLength, p.Memory, p.Iterations, argon2.Version, typeID} {
		text = binary.LittleEndian.AppendUint32(text, n)
	}
	for _, part := range [][]byte{password, salt, nil, nil} {
		text = binary.LittleEndian.AppendUint32(text, uint32(len(part)))
		text = append(text, part...)
	}
	sum := blake2b.Sum512(text)
	return sum[:]
}

// longHash is the hash of variable length of RFC 9106 §3.3.
func longHash(length int, text []byte) []byte {
	text = append(binary.LittleEndian.AppendUint32(nil, uint32(length)), text...)
	var out []byte
	for length-len(out) > blake2b.Size {
		sum := blake2b.Sum512(text)
		out, text = append(out, sum[:blake2b.Size/2]...), sum[:]
	}
	h, err := blake2b.New(length-len(out), nil)
	if err != nil {
		panic(err) // the size is between 1 and 64
	}
	h.Write(text)
	return h.Sum(out)
}

func fromBytes(text []byte) (b block) {
	for i := range b {
		b[i] = binary.LittleEndian.Uint64(text[8*i:])
	}
	return b
}
