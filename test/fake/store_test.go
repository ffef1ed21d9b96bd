package fake_test

import (
	"testing"

	"banger"
	"banger/test/fake"
	"banger/test/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Subject {
		s := fake.NewStore()
		return storetest.Subject{Store: s, Reopen: func() banger.Store { return s }}
	})
}
