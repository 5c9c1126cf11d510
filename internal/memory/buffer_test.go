package memory_test

import (
	"testing"

	"signet/internal/memory"
)

// A buffer that was used is empty again, and one that has grown large is not kept.
func TestReleasedBufferIsEmpty(t *testing.T) {
	for _, size := range []int{10, 1 << 20} {
		b := memory.Buffer()
		*b = append(*b, make([]byte, size)...)
		memory.Release(b)
		for range 10 {
			again := memory.Buffer()
			if len(*again) != 0 || cap(*again) > 64<<10 {
				t.Errorf("after one of %d bytes: length %d, capacity %d", size, len(*again), cap(*again))
			}
			defer memory.Release(again)
		}
	}
}
