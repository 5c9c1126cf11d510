package rawjson_test

import (
	"testing"

	"signet/internal/rawjson"
)

// A buffer that was used is empty again, and one that has grown large is not kept.
func TestReleasedBufferIsEmpty(t *testing.T) {
	for _, size := range []int{10, 1 << 20} {
		b := rawjson.Buffer()
		*b = append(*b, make([]byte, size)...)
		rawjson.Release(b)
		for range 10 {
			again := rawjson.Buffer()
			if len(*again) != 0 || cap(*again) > 64<<10 {
				t.Errorf("after one of %d bytes: length %d, capacity %d", size, len(*again), cap(*again))
			}
			defer rawjson.Release(again)
		}
	}
}
