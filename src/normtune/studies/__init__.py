"""Many runs, and what is tabulated from them."""
