package fastpath

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
	"unsafe"
)

// The memory that the programs read: the structs block, bucket and state of
// kernel/answer.c, in little-endian order. What is of the network's order there is
// copied byte by byte here.
const (
	blockSize  = 1432
	bucketSize = 8 * bucketEntries
	stateSize  = 24

	bucketEntries = 4

	offGen       = maxName
	offStatusGen = offGen + 8
	offNetwork   = offStatusGen + 8
	offSlot      = offNetwork + 4
	offType      = offSlot + 4
	offNameLen   = offType + 2
	offFlags     = offNameLen + 2
	offAnswers   = offFlags + 2
	offAuthority = offAnswers + 2
	offLen       = offAuthority + 2
	offTurnLen   = offLen + 2
	offTurns     = offTurnLen + 2
	offOPTLen    = offTurns + 2
	offSum       = offOPTLen + 2
	offOPTSum    = offSum + 2
	offCounter   = offOPTSum + 4
	offOPT       = offCounter + 8
	offRecords   = offOPT + 2*maxOPT

	offLease  = 0
	offSeed   = 8
	offLimit  = 16
	offBucket = 20
)

// optDO is where an OPT record has the bit DO, and which it is there.
const (
	optDO = 7
	bitDO = 0x80
)

// encode writes an answer into a block.
func encode(b []byte, a *Answer) {
	clear(b[:maxName])
	copy(b, a.Name)
	le, be := binary.LittleEndian, binary.BigEndian
	le.PutUint64(b[offGen:], a.Generation.app)
	le.PutUint64(b[offStatusGen:], a.Generation.status)
	network := networkOf(a)
	copy(b[offNetwork:], network[:])
	le.PutUint32(b[offSlot:], a.Generation.slot)
	be.PutUint16(b[offType:], a.Type)
	le.PutUint16(b[offNameLen:], uint16(len(a.Name)))
	be.PutUint16(b[offFlags:], a.Flags)
	be.PutUint16(b[offAnswers:], a.Answers)
	be.PutUint16(b[offAuthority:], a.Authority)
	le.PutUint16(b[offLen:], uint16(len(a.Records)))
	turns := 1
	if a.TurnLen > 0 {
		turns = len(a.Records) / a.TurnLen
	}
	le.PutUint16(b[offTurnLen:], uint16(a.TurnLen))
	le.PutUint16(b[offTurns:], uint16(turns))
	le.PutUint16(b[offOPTLen:], uint16(len(a.OPT)))
	le.PutUint16(b[offSum:], sum(a.Records))
	le.PutUint32(b[offCounter:], uint32(a.Counter))
	for do := range 2 {
		opt := b[offOPT+do*maxOPT:][:len(a.OPT)]
		if copy(opt, a.OPT); do == 1 && len(opt) > optDO {
			opt[optDO] |= bitDO
		}
		le.PutUint16(b[offOPTSum+2*do:], sum(opt))
	}
	records := b[offRecords:]
	copy(records[copy(records, a.Records):], a.Records)
}

// networkOf returns what tells networks apart, as a packet has it.
func networkOf(a *Answer) [4]byte { n := a.Network.Addr().As16(); return [4]byte(n[2:6]) }

// sum returns the sum of the 16-bit words of b in one's complement (RFC 1071), zero
// behind its end. Its bytes are in the order in which b has them.
func sum(b []byte) uint16 {
	var s uint64
	for ; len(b) > 1; b = b[2:] {
		s += uint64(binary.LittleEndian.Uint16(b))
	}
	if len(b) > 0 {
		s += uint64(b[0])
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// hash returns a question's hash, as the programs compute it.
func hash(seed uint64, network [4]byte, typ uint16, name []byte) uint64 {
	mix := func(h, w uint64) uint64 {
		h = (h ^ w) * 0x9e3779b97f4a7c15
		return h ^ h>>32
	}
	h := mix(seed, uint64(binary.LittleEndian.Uint32(network[:]))<<32|uint64(bits.ReverseBytes16(typ))<<16|uint64(len(name)))
	for i := 0; i < len(name); i += 8 {
		var word [8]byte
		copy(word[:], name[i:])
		h = mix(h, binary.LittleEndian.Uint64(word[:]))
	}
	return h
}

// words returns memory, aligned to 8 bytes, as numbers to be read and written at once.
func words(b []byte) []atomic.Uint64 {
	return unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}
