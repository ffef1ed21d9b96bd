package oci_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"banger"
	"banger/test/treetest"
)

// Any bytes as an archive are refused as invalid or make an image, and nothing is left
// of those refused.
func FuzzArchive(f *testing.F) {
	layer := treetest.Archive(f, file("f", "f"), file(".wh.g", ""))
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}`
	f.Add(treetest.Archive(f, file("manifest.json", `[{"Config":"c.json","Layers":["l.tar"]}]`), file("c.json", config), file("l.tar", string(layer))))
	f.Add(treetest.Archive(f, file("oci-layout", "{}"), file("index.json", `{"schemaVersion":2,"manifests":[{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","platform":{"os":"linux","architecture":"amd64"}}]}`)))
	f.Add(treetest.Archive(f, symlink("manifest.json", "manifest.json"), hardlink("blobs", "blobs")))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newStore(t)
		_, err := s.Import(t.Context(), bytes.NewReader(b), nil)
		if err == nil {
			return
		}
		if banger.CodeOf(err) != banger.CodeInvalid {
			t.Fatalf("%s: %v", banger.CodeOf(err), err)
		}
		if left, err := os.ReadDir(s.Dir); err == nil && len(left) > 0 {
			t.Fatal(left)
		}
	})
}

// An archive that can't be an image is refused, and the error says why.
func TestRefusedArchives(t *testing.T) {
	digest := func(d string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q}]}`, d)
	}
	const zero = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	config := func(ids string) entry {
		return file("c.json", `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[`+ids+`]}}`)
	}
	for says, entries := range map[string][]entry{
		"has no \"manifest.json\"":        {file("repositories", "{}")},
		"has a chain of links":            {symlink("manifest.json", "a"), symlink("a", "manifest.json")},
		"manifest.json of the image":      {file("manifest.json", "{")},
		"holds 2 images":                  {file("manifest.json", `[{},{}]`)},
		"has no \"c.json\"":               {file("manifest.json", `[{"Config":"c.json","Layers":["l"]}]`)},
		"has 2 layers, and the config 1":  {file("manifest.json", `[{"Config":"c.json","Layers":["l","m"]}]`), config(`"` + zero + `"`)},
		"has 0 layers and its manifest 0": {file("manifest.json", `[{"Config":"c.json"}]`), config("")},
		"config can't be read":            {file("manifest.json", `[{"Config":"c.json"}]`), file("c.json", "[")},
		"isn't what the image's config":   {file("manifest.json", `[{"Config":"c.json","Layers":["l"]}]`), config(`"` + zero + `"`), file("l", string(treetest.Archive(t, file("f", "f"))))},
		"no digest that is understood":    {file("index.json", digest("sha512:"+zero[7:]+zero[7:]))},
		"unsupported hash":                {file("index.json", digest("md5:0123"))},
		"has no \"blobs/sha256/0000":      {file("index.json", digest(zero))},
		"is damaged":                      {file("index.json", digest(zero)), file("blobs/sha256/"+zero[7:], "{}")},
		"only for linux/arm64":            {file("index.json", `{"manifests":[{"digest":"`+zero+`","platform":{"os":"linux","architecture":"arm64"}}]}`)},
		"manifest can't be read":          {file("index.json", "x")},
		"names no config":                 {file("index.json", "{}")},
	} {
		s := newStore(t)
		_, err := s.Import(t.Context(), bytes.NewReader(treetest.Archive(t, entries...)), nil)
		if banger.CodeOf(err) != banger.CodeInvalid || !bytes.Contains([]byte(fmt.Sprint(err)), []byte(says)) {
			t.Errorf("want %q: %v", says, err)
		}
	}
	whole := treetest.Archive(t, file("manifest.json", "[]"), file("l", string(make([]byte, 5000))))
	if _, err := newStore(t).Import(t.Context(), bytes.NewReader(whole[:3000]), nil); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("cut off: %v", err)
	}
}
