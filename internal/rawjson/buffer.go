package rawjson

import "sync"

// maxKept is the largest buffer that is kept for later use, in bytes.
const maxKept = 64 << 10

var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, 4<<10)
	return &b
}}

// Buffer returns an empty buffer for a text that is needed for a moment, such as JSON that is
// sealed next: what a request allocates is memory that no cache of the processor holds. The
// caller gives it to [Release] at the end.
func Buffer() *[]byte { return buffers.Get().(*[]byte) }

// Release takes back a buffer, which the caller may have grown. Neither it nor a slice of it may
// be used any longer.
func Release(b *[]byte) {
	if cap(*b) > maxKept {
		return
	}
	*b = (*b)[:0]
	buffers.Put(b)
}
