package seal

// Marshal and Unmarshal are the text that a sealed artefact contains.
func Marshal[T Artefact](v T) ([]byte, error) { return appendJSON(nil, &v) }

func Unmarshal[T Artefact](text []byte) (v T, err error) { return v, unmarshal(text, &v) }
