"""Result types: frozen, typed, versioned."""
