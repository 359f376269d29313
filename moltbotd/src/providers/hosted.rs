//! Hosted and local model servers, through genai.
