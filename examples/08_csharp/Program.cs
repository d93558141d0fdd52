// A renderer in C# that shows its frames restored by a server. Start the server by
// splatmend serve --tcp 127.0.0.1:7879, then:
//
//     csc Program.cs ../../plugin/client/csharp/Splatmend.cs      (or mcs, or add both to a project)
//     Program.exe 7879

using System;
using Splatmend;

static class Program
{
    const int Width = 96, Height = 64, Frames = 20;

    static int Main(string[] arguments)
    {
        var pixels = new byte[4 * Width * Height];
        var color = new Plane("color", "rgba8") { Origin = "bl", Alpha = "premul", Data = pixels };
        var frame = new Frame { Width = Width, Height = Height, Planes = { color } };
        Picture picture = null;
        int restored = 0;
        using (var client = new Client(new ClientOptions
        {
            Port = int.Parse(arguments[0]), Mode = "sync", DeadlineMs = 5000,
        }))
        {
            client.WaitUntilUp(5000);
            for (int i = 0; i < Frames; i++)
            {
                Render(pixels, i);
                if (client.Restore(frame, ref picture)) restored++; // otherwise show the raw pixels
            }
            Console.WriteLine(restored + " of " + Frames + " frames restored by " + client.Model
                + ", the last in " + (int)picture.AgeMs + " ms");
        }
        return restored == Frames ? 0 : 1;
    }

    static void Render(byte[] pixels, int time)
    {
        for (int y = 0; y < Height; y++)
            for (int x = 0; x < Width; x++)
            {
                bool inside = (x - 48) * (x - 48) + (y - 32) * (y - 32) < 900;
                int at = 4 * (y * Width + x);
                pixels[at] = (byte)(inside ? 2 * x : 0);
                pixels[at + 1] = (byte)(inside ? 4 * y : 0);
                pixels[at + 2] = (byte)(inside ? (x * y + 8 * time) % 256 : 0);
                pixels[at + 3] = (byte)(inside ? 255 : 0);
            }
    }
}
